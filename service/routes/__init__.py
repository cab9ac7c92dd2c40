"""The routes: plain functions as handlers, wire structs beside them. What they do stands in the operations that they call."""
