"""Both stages of the cascade over many cases."""
