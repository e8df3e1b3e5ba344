"""What is made of results: errors, structure, spectra. Host code in numpy."""
