"""What runs a task: processes, containers and WebAssembly modules."""
