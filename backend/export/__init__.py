"""Commands beside the service: videos into frames, masks out, projects labelled ahead."""
