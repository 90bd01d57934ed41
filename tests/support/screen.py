"""What a terminal would show: the few sequences that libedit and kvasir write, applied to a grid of characters."""
import re
import unicodedata

SEQUENCE = re.compile(r"\x1b\[(\??)([\d;]*)([A-Za-z])")


class Screen:
    def __init__(self, columns, rows):
        self.columns, self.rows = columns, rows
        self.grid = [[" "] * columns for _ in range(rows)]
        self.row = self.column = 0

    def feed(self, text):
        while text:
            found = SEQUENCE.match(text)
            if found:
                self.sequence(*found.groups())
            else:
                self.character(text[0])
            text = text[found.end() if found else 1:]

    def sequence(self, private, number, kind):
        n = int(number or 1) if number.isdigit() or not number else 1
        if private or kind == "m":  # modes and colours
            return
        if kind == "K":  # to the end of the line
            self.grid[self.row][self.column:] = [" "] * (self.columns - self.column)
        elif kind == "J":  # to the end of the screen
            self.grid[self.row][self.column:] = [" "] * (self.columns - self.column)
            self.grid[self.row + 1:] = [[" "] * self.columns for _ in self.grid[self.row + 1:]]
        elif kind == "P":  # characters deleted
            line = self.grid[self.row]
            line[self.column:] = (line[self.column + n:] + [" "] * n)[:self.columns - self.column]
        elif kind == "@":  # room for characters
            line = self.grid[self.row]
            line[self.column:] = ([" "] * n + line[self.column:])[:self.columns - self.column]
        elif kind in "ABCDG":
            if kind in "AB":
                self.row = max(0, min(self.rows - 1, self.row + (n if kind == "B" else -n)))
            else:
                self.column = max(0, min(self.columns - 1, {"C": self.column + n, "D": self.column - n, "G": n - 1}[kind]))
        else:
            raise ValueError(f"the sequence {private}{number}{kind} is not known")

    def resize(self, columns):
        """As xterm does: what stands on the screen stays where it is."""
        self.grid = [(line + [" "] * columns)[:columns] for line in self.grid]
        self.columns = columns
        self.column = min(self.column, columns - 1)

    def line_feed(self):
        self.row += 1
        if self.row == self.rows:
            self.grid = self.grid[1:] + [[" "] * self.columns]
            self.row -= 1

    def character(self, c):
        if c == "\r":
            self.column = 0
        elif c == "\n":
            self.line_feed()
        elif c == "\b":
            self.column = max(0, self.column - 1)
        elif c >= " ":
            width = 2 if unicodedata.east_asian_width(c) in "WF" else 1
            if self.column + width > self.columns:
                self.column = 0
                self.line_feed()
            self.grid[self.row][self.column:self.column + width] = [c] + [""] * (width - 1)
            self.column += width

    def lines(self):
        shown = ["".join(line).rstrip() for line in self.grid]
        while shown and not shown[-1]:
            shown.pop()
        return shown
