"""Networks that look at images: what more than one method builds on."""
