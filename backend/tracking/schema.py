"""The tables of the store of tracks."""

from __future__ import annotations

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    track TEXT NOT NULL,
    digest TEXT NOT NULL,
    request TEXT NOT NULL,
    state TEXT NOT NULL,
    done INTEGER NOT NULL DEFAULT 0,
    total INTEGER NOT NULL DEFAULT 0,
    message TEXT NOT NULL DEFAULT '',
    deliver INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL,
    updated REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS jobs_by_digest ON jobs (digest, state);
CREATE TABLE IF NOT EXISTS masks (
    track TEXT NOT NULL,
    object TEXT NOT NULL,
    frame INTEGER NOT NULL,
    anchor TEXT NOT NULL,
    height INTEGER NOT NULL,
    width INTEGER NOT NULL,
    runs BLOB NOT NULL,
    iou REAL NOT NULL,
    presence REAL NOT NULL,
    prompted INTEGER NOT NULL DEFAULT 0,
    stride INTEGER NOT NULL DEFAULT 1,
    PRIMARY KEY (track, object, frame)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS earlier_masks (
    track TEXT NOT NULL,
    object TEXT NOT NULL,
    frame INTEGER NOT NULL,
    height INTEGER NOT NULL,
    width INTEGER NOT NULL,
    runs BLOB NOT NULL,
    PRIMARY KEY (track, object, frame)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS due (
    job TEXT PRIMARY KEY
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS delivered (
    prediction INTEGER PRIMARY KEY,
    track TEXT NOT NULL,
    objects TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS generations (
    track TEXT NOT NULL,
    object TEXT NOT NULL,
    frame INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    PRIMARY KEY (track, object, frame)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS objects (
    track TEXT NOT NULL,
    object TEXT NOT NULL,
    description TEXT NOT NULL,
    PRIMARY KEY (track, object)
) WITHOUT ROWID;
"""
