"""What tests, plugin authors and users' own CI build on: an in-process client, tokens without identity, a simulated world."""
