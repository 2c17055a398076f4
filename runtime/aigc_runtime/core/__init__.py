"""What every other folder speaks of: tensors, an interface, a session, carried state, a comparison."""
