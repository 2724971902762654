"""Which updates count: rules, their tables, quarantine, and sites that are not asked any more."""
