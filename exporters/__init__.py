"""From a build's folder to Redis, and from Redis to HTTP."""
