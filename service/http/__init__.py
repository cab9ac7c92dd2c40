"""HTTP above the routes: representations, conditions, bodies, errors. The server below them is in `server`."""
