"""The parts of the studies of the learning rate as a temperature: what is trained, measured, and read."""
