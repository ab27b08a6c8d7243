"""How a program is computed: blocks, memory, tables, steps; all that is decided before there is machine code."""
