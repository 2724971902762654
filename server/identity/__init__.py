"""Who may take part: tokens, certificates, authorities, sites."""
