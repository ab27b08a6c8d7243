"""Machine code: loop nests written as LLVM IR and compiled for the processor at hand."""
