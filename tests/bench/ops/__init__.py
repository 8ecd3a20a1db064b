"""How fast runtime operators are beside what onnxruntime has: `python -m tests.bench.ops` runs all."""
