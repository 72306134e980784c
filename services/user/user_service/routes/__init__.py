"""Users over HTTP, in two versions: each translates to and from the use cases, and nothing more."""
