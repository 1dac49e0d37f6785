"""Files in, files out: stacks of images, tables of particles, maps, ensembles and the truth beside simulated sets.

Nothing here trains, and nothing is imported until it is asked for: `frazil.data.stack.read_particles` opens particles,
`frazil.data.mrc.read_volume` a map, and the verbs `frazil inspect` and `frazil export` live in `inspect.py` and
`export.py`.
"""
