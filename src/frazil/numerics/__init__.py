"""Pure tensor mathematics: Fourier transforms, slices, rotations, point groups, shells, masks. No pixel sizes live here."""
