"""What is compiled: pure functions of a task, which train, stop and score, and the checks that come before."""
