"""Which backend takes a request, and which is not trusted with one for a while."""
