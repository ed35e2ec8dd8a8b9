"""What the host does for one run, from its arguments to its result: `fit`, `validate`, `job`, `loop`, `result`."""
