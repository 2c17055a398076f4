"""`--precision auto`: the mix of precisions that keeps a quality budget and is measured to be the fastest."""
