"""Files and text: read strictly, written whole or not at all."""
