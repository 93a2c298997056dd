"""Wire formats shared by what comes in and what goes out; pure codecs."""
