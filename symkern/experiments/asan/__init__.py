"""The tables of the ASAN paper: a canonical rotation that is learned, on HOMO-LUMO gaps of small QM9 molecules."""
