"""Reading and writing: structures, trajectories, model files. Everything here is host code in numpy."""
