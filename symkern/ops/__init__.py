"""Public functions of the op library: one file per op, with its fake kernel, backward and pure-torch reference."""
