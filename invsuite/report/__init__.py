"""Tables, pages and pictures, rendered from records alone."""
