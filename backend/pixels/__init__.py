"""Pictures, pages, frames and videos: decoded apart from the service, given out by number."""
