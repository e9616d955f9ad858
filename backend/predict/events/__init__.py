"""The interactive video protocol of Label Studio's newer (Enterprise) editors, which name in
``params.context.event`` what they want; the open-source editor (1.23.2) never does. Events and
answers: docs/video_protocol.md.
"""
