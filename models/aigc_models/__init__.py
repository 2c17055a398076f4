"""Training-ready PyTorch definitions of the three generator families."""

import logging

# Without it, Python would print warnings of an application that sets up no logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())
