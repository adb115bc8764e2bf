"""The parts of the separation study, one a module: what each measures, as rows; its table; what it says in words."""
