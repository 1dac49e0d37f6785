"""What runs things and knows no cryo-EM: job folders, files, progress, checkpoints, training, reports."""
