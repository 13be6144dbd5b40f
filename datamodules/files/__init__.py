"""Readers and writers for files: images, arrays, audio, video, tables and weights.

What a reader cannot read, it rejects in one sentence that names the file, the reason and, where there is one, the
remedy. It raises FileNotFoundError if a file or folder is missing, ValueError or a subclass, such as `UnreadableImage`,
if the content is damaged, foreign, too large or out of range, and ModuleNotFoundError, with the extra to install, if a
package is missing. The readers of datasets do the same.
"""
