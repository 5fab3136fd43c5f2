"""Every sentence that a reader, a mapping or a row check may say, by its code.

The pure modules know no Django, so the English text doubles as the translation key: the portal passes its own
`gettext` to `RowFault.sentence` and `DataError.sentence`. The name `gettext_noop` marks the texts for `makemessages`.
"""


def gettext_noop(text: str) -> str:
    """Return the text unchanged; the name is what the message extractor looks for."""
    return text


IN_LINE = gettext_noop("Line %(line)d: %(text)s")
IN_ROW = gettext_noop("Row %(line)d: %(text)s")
IN_COLUMN_OF_ROW = gettext_noop("Row %(line)d, column “%(column)s”: %(text)s")
IN_COLUMN = gettext_noop("Line %(line)d, column “%(column)s”: %(text)s")

FILE_SENTENCES: dict[str, str] = {
    "empty_file": gettext_noop("The file is empty. Upload a table with a header line and at least one row."),
    "file_too_large": gettext_noop("The file has %(size)d bytes, the limit is %(limit)d. Split it into smaller files."),
    "too_many_rows": gettext_noop("The file has more than %(limit)d rows. Split it into smaller files."),
    "not_a_table": gettext_noop("The file is %(what)s, whatever its name says. %(advice)s"),
    "binary": gettext_noop(
        "The file is not text: it is full of NUL bytes. Save the table as CSV in UTF-8 and upload that."
    ),
    "utf16": gettext_noop(
        "The file is UTF-16 text. Choose UTF-16 as its encoding, or save it as “CSV UTF-8” and upload that."
    ),
    "encoding_unknown": gettext_noop(
        "The file is not UTF-8: %(bad_lines)d lines cannot be read, the first is line %(first)d. "
        "Choose the encoding whose preview reads well (%(candidates)s), or save the file as UTF-8."
    ),
    "encoding_unsupported": gettext_noop("The encoding “%(encoding)s” is not supported. Use one of: %(supported)s."),
    "delimiter_unsupported": gettext_noop(
        "The delimiter must be a single character: comma, semicolon, tab or vertical bar."
    ),
    "header_unreadable": gettext_noop(
        "The header (line %(line)d) cannot be read: it has broken quotes, a damaged character or no end. "
        "Repair this line and upload the file again."
    ),
    "header_empty_name": gettext_noop(
        "Column %(position)d has no name in the header. Give every column a name, or delete the column."
    ),
    "header_duplicate": gettext_noop(
        "The column name “%(column)s” occurs twice, in columns %(first)d and %(second)d. Rename one of them."
    ),
    "too_many_columns": gettext_noop(
        "The table has %(columns)d columns, the limit is %(limit)d. Delete the columns that are not needed."
    ),
    "shards_differ": gettext_noop(
        "The files of the folder have other columns or another format than the first one. Name a single file."
    ),
    "shards_of_this_kind": gettext_noop(
        "Several files of this format cannot be put together. Name a single file, or store them as CSV or Parquet."
    ),
    "no_rows": gettext_noop("The file has a header but no rows. Upload a table with at least one row."),
    # files inside files
    "container_damaged": gettext_noop(
        "The file is damaged or was cut off on its way: it cannot be unpacked. Make it anew and upload it again."
    ),
    "unpacked_too_large": gettext_noop(
        "The file becomes larger than %(limit)d MiB when it is unpacked. Split it into smaller files."
    ),
    "archive_bomb": gettext_noop(
        "The file is packed so tightly that no honest table can be inside. Unpack it and upload the table itself."
    ),
    "archive_entries": gettext_noop(
        "The archive holds more than %(limit)d files. Pack only the tables for training, validation and test."
    ),
    "archive_unsafe": gettext_noop(
        "The archive holds a link or a name that points outside of it. Pack the plain files and upload it again."
    ),
    "archive_long_name": gettext_noop(
        "A name in the archive has more than %(limit)d characters, folders included. Shorten it and pack again."
    ),
    "archive_encrypted": gettext_noop("The archive is encrypted. Pack it without a password and upload it again."),
    "archive_method": gettext_noop(
        "The archive is packed by a method that cannot be read here. Pack it as an ordinary ZIP (Deflate)."
    ),
    "archive_nested": gettext_noop(
        "There is an archive inside the archive. Pack the tables themselves, without archives between."
    ),
    "archive_no_table": gettext_noop(
        "The archive holds no table: no CSV, TSV, JSON Lines, XLSX or Parquet file is in it. Pack one and upload it."
    ),
    "part_missing": gettext_noop("There is no such sheet or file inside. Choose one of those that are listed."),
    "workbook_encrypted": gettext_noop(
        "The workbook is protected by a password. Save it without one (in Excel: Info, Protect Workbook) and upload it."
    ),
    "workbook_old": gettext_noop(
        "The file is an old Office document (.xls, .doc). Save it as .xlsx or as CSV in UTF-8."
    ),
    "workbook_empty": gettext_noop(
        "No sheet of the workbook has a header and a row below it. Upload a table with at least one row."
    ),
    "sheet_empty": gettext_noop("The sheet “%(sheet)s” has no header with a row below it. Choose another sheet."),
    "sheet_beyond_header": gettext_noop(
        "Row %(row)d has a cell to the right of the last column name. Give that column a name, or clear the cell."
    ),
    "parquet_encrypted": gettext_noop(
        "The Parquet file is encrypted. Write it without encryption and upload it again."
    ),
    "json_array_broken": gettext_noop(
        "Item %(item)d of the JSON array cannot be read. Repair it, or write one object a line (JSON Lines)."
    ),
    "json_not_utf8": gettext_noop("The JSON document is not UTF-8, as JSON has to be. Save it as UTF-8."),
    "no_json_rows": gettext_noop(
        "No line of the file is a readable JSON object. Write one object a line, for example "
        '{"prompt": "…", "response": "…"}.'
    ),
}

ROW_SENTENCES: dict[str, str] = {
    # reading delimited text
    "ragged": gettext_noop(
        "the row has another number of cells (%(found)d) than the header (%(expected)d). Look for a missing or an "
        "extra delimiter, and put cells that contain one in double quotes."
    ),
    "bad_quotes": gettext_noop(
        "a double quote is not closed or stands inside a cell alone (lines %(first)d to %(last)d are left out). "
        'Close the quote, or write "" for a quote inside a quoted cell.'
    ),
    "unreadable_rest": gettext_noop(
        "after a broken double quote no row could be read for %(lines)d lines, so the rest of the file is left out. "
        "Close the quote on this line and upload the file again."
    ),
    "stray_return": gettext_noop(
        "a carriage return (CR) stands inside a cell without quotes. Put the cell in double quotes or delete it."
    ),
    "row_too_long": gettext_noop(
        "the row is longer than %(limit)d bytes or %(line_limit)d lines (lines %(first)d to %(last)d are left out). "
        "Shorten it, or look for a double quote that is not closed."
    ),
    "cell_too_long": gettext_noop("the cell is longer than %(limit)d bytes. Shorten the text or delete the row."),
    "bad_byte": gettext_noop(
        "byte 0x%(byte)02x at position %(position)d is not valid %(encoding)s text. "
        "Replace the character, or choose another encoding for the whole file."
    ),
    "nul": gettext_noop("the text contains a NUL character. Delete it."),
    # reading JSON lines
    "bad_json": gettext_noop(
        "the line is not valid JSON (%(reason)s, position %(position)d). Write one JSON object a line."
    ),
    "line_too_long": gettext_noop(
        "the line is longer than %(limit)d bytes. Shorten the texts in it or delete the line."
    ),
    "not_an_object": gettext_noop(
        "the line is not a JSON object. Write one object a line, with the columns as its keys."
    ),
    "json_too_deep": gettext_noop("the JSON is nested deeper than %(limit)d levels. Flatten it."),
    "json_number": gettext_noop(
        "the JSON contains a number that cannot be stored (NaN, Infinity or far too many digits). Write it as text."
    ),
    "json_duplicate_key": gettext_noop("the JSON has the same key twice in one object. Keep one of them."),
    "surrogate": gettext_noop("the text contains half of a character (a lone surrogate such as \\ud800). Delete it."),
    # from record to row
    "unknown_split": gettext_noop(
        "the cell names no split. Write train, validation or test in it, or choose no split column."
    ),
    "missing_column": gettext_noop("the row has no value in this column. Fill it in or delete the row."),
    "not_text": gettext_noop("the cell must be text. Put the value in quotes."),
    "empty_prompt": gettext_noop("the prompt is empty. Fill it in or delete the row."),
    "rejected_asks_else": gettext_noop(
        "the worse answer follows other messages than the better one. Both have to answer the same conversation."
    ),
    "rejected_is_answer": gettext_noop("the worse answer is the same as the answer. Change it or delete the row."),
    "empty_answer": gettext_noop("the answer is empty. Fill it in or delete the row."),
    "prompt_too_long": gettext_noop(
        "the prompt has %(found)d characters, the limit is %(limit)d. Shorten it or delete the row."
    ),
    "answer_too_long": gettext_noop(
        "the answer has %(found)d characters, the limit is %(limit)d. Shorten it or delete the row."
    ),
    "answer_not_json": gettext_noop(
        "the answer is not a JSON object although the other answers are (%(reason)s). "
        "Repair the answer, or turn “answers are JSON” off."
    ),
    "bad_messages": gettext_noop(
        "the messages must be a list of objects, each with “role” and “content”. Repair the list or delete the row."
    ),
    "bad_roles": gettext_noop(
        "the roles must be an optional system message, then user and assistant in turn, the assistant last. "
        "Repair the order or delete the row."
    ),
    "bad_weight": gettext_noop(
        "the “weight” of an assistant message must be 0 (do not learn it) or 1. Repair it or delete the row."
    ),
    "nothing_learned": gettext_noop(
        "every assistant message has the weight 0, so there is nothing to learn. Give one of them 1 or delete the row."
    ),
}

MAPPING_SENTENCES: dict[str, str] = {
    "column_missing": gettext_noop("The column “%(column)s” is not in the file. Its columns are: %(available)s."),
    "prompt_unset": gettext_noop("No column is chosen for the prompt. Choose one of: %(available)s."),
    "response_unset": gettext_noop("No column is chosen for the answer. Choose one of: %(available)s."),
    "messages_and_columns": gettext_noop("Choose either a messages column or prompt and answer columns, not both."),
    "text_and_columns": gettext_noop(
        "Plain text has no prompt, answer, system prompt or worse answer. Choose the text's column alone."
    ),
    "rejected_is_text": gettext_noop(
        "The column “%(column)s” is chosen for the worse answer and for another text. Choose two different columns."
    ),
    "same_column": gettext_noop(
        "The column “%(column)s” is chosen both as prompt and as answer. Choose two different columns."
    ),
    "template_placeholder": gettext_noop(
        "The prompt template mentions {%(column)s}, but the file has no such column. Its columns are: %(available)s."
    ),
    "template_brace": gettext_noop(
        "The prompt template has a single brace at position %(position)d. Write {column} for a column and "
        "{{ or }} for a brace."
    ),
    "template_no_column": gettext_noop(
        "The prompt template mentions no column, so every prompt would be the same. Write at least one {column}."
    ),
    "template_mentions_answer": gettext_noop(
        "The prompt template mentions {%(column)s}, which is the answer: the model would only learn to copy it."
    ),
    "split_is_text": gettext_noop(
        "The column “%(column)s” is chosen for the split and for a text as well. Choose another one for the split."
    ),
    "mapping_malformed": gettext_noop("The stored mapping cannot be read: %(reason)s. Choose the columns again."),
}

WORK_SENTENCES: dict[str, str] = {
    "work_memory": gettext_noop(
        "Reading the file takes more than %(memory_mib)d MiB of memory, far more than a table needs. "
        "Split it into smaller files, or save it as CSV and upload that."
    ),
    "work_too_long": gettext_noop(
        "Reading the file takes more than %(seconds)d seconds, so it was stopped. Split it into smaller files."
    ),
    "work_file_too_large": gettext_noop(
        "The table becomes larger than %(file_mib)d MiB when it is unpacked. Split it into smaller files."
    ),
    "work_crashed": gettext_noop(
        "Reading the file failed: it is damaged, or has a form that the portal does not know. "
        "Save it as CSV in UTF-8 and upload that."
    ),
}

IMPORT_SENTENCES: dict[str, str] = {
    "no_training_rows": gettext_noop(
        "No row of the file is for training. Look at the cells of the split column, or choose no split column."
    ),
    "no_good_rows": gettext_noop("No row of the file can be used. Look at the faults, repair the file and try again."),
}

SPLIT_SENTENCES: dict[str, str] = {
    "no_dates": gettext_noop(
        "The rows cannot be divided by time: no row has a date. Choose the column with the dates, or divide by chance."
    ),
    "no_split_column": gettext_noop(
        "The rows cannot be divided by a column: none is chosen. Choose the column that names the split of each row."
    ),
}
