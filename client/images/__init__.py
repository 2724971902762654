"""A site's images: found, counted, agreed on, decoded."""
