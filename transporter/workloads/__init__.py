"""What is read and restored: file trees, disk images, streams. All of it is synchronous and runs in worker threads.

Backup: a *source* (``TreeScanner``, ``StreamReader``) fills buffers with content and hands out ``Pending`` entries;
the job cuts the stream into chunks and tells ``ManifestBuilder`` each cut; the builder hands back finished entries.
``ImageReader`` with ``ImageManifest`` does the same for fixed blocks. Restore: ``TreeWriter`` takes entries, asks for
chunks in order, and publishes what it has put together by renaming.

    source.fill(buffer) -> int          content bytes; 0 at the end of everything (see max_entries)
    source.finished -> bool             with max_entries, 0 bytes may also mean "take the entries, then call again"
    source.take_entries() -> list[Pending]
    source.take_notes() -> list[Note]   note.gap: something is missing, the job ends with status 8
"""
