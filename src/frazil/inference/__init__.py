"""What turns images into densities, poses, latents and optics: backprojection, encoders, tables, objectives."""
