"""What is trained: a model, a loss and an optimizer, of any calling convention, behind one interface."""
