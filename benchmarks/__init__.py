"""Benchmarks: speed and memory (`speed`) and broken runs (`faults`), each a program of its own."""
