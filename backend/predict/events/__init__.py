"""The interactive video protocol of Label Studio's newer (Enterprise) editors.

Those editors name in ``params.context.event`` what they want, and POST all of it to ``/predict``;
the open-source editor (1.23.2) never sends an event. The wire format follows the public example
``label_studio_ml/examples/segment_anything_video_interactive`` of
HumanSignal/label-studio-ml-backend:

==============  ==================================  ===========================================
event           from the editor                     the ``value`` of the one result item
==============  ==================================  ===========================================
capabilities                                        prompts, targets, model_info
prewarm         time_ms or frame, window,           status, cached, pending, frame_count
                direction
predict         time_ms or frame, result            imageDataURL, width, height
track           as predict, and direction,          session_id, total_frames, fps, duration_ms
                max_duration_ms or max_frames
track_progress  session_id                          frames, produced, total, done, error
track_cancel    session_id                          status
release                                             status
==============  ==================================  ===========================================

Beyond the example: ``object_id`` on a prompt (in the item or its value) tells objects apart, and
a prompt may have a ``frame`` or ``time_ms`` of its own; every answer names its ``object_id``.
``track_progress`` takes a ``cursor`` and answers with the next one, and what was read can be read
again from any earlier cursor until the session is released. Where the example stops tracking, at
frame 300 or when the object is lost, this goes on.
"""
