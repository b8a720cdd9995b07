"""The engine for models that complete texts elsewhere: behind a server, or in llama.cpp."""
