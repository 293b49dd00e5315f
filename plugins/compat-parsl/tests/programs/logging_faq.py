# FAQ, "How can I debug a Parsl script?". Adapted: the import of logging; the file's name; something to log.
import logging
import parsl

# Emit log lines to the screen
parsl.set_stream_logger()

# Write log to file, specify level of detail for logs
FILENAME = "parsl.log"
parsl.set_file_logger(FILENAME, level=logging.DEBUG)

with parsl.load():
    pass
print("flowcore.session" in open(FILENAME).read())
