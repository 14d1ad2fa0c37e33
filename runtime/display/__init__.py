"""What a person is shown: tables, video, the report page, and the directory that a run leaves behind."""
