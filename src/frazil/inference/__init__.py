"""What turns images into poses, latents and optics: encoders, tables, objectives."""
