"""Files <-> NumPy: pictures, clips and sound. PyAV and Pillow are imported on first use only."""
