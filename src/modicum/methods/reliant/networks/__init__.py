"""Teachers, students, proxies and discriminators."""
