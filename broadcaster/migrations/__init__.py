"""How the journal's tables came to be as they are: a version each, none of which is ever changed."""
