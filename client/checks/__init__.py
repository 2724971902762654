"""What can be known before a site takes part."""
