//! GRUB's scripts as a tree of commands (GRUB manual, "Writing full configuration files directly"). It is tolerant: what
//! it cannot follow becomes a command of its words.

use std::rc::Rc;

/// The longest script, in bytes.
const MAX_SCRIPT: usize = 4 << 20;

/// How deep blocks may be nested.
const MAX_DEPTH: usize = 32;

/// A word: parts that are joined after variables are replaced.
pub(super) type Word = Vec<Part>;

/// A part of a word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Part {
    /// Plain text.
    Text(String),
    /// The value of a variable, and whether it is in quotes: if not, it is split at blanks.
    Variable(String, bool),
}

/// A command.
#[derive(Debug, Clone)]
pub(super) enum Command {
    /// A simple command.
    Simple(Vec<Word>),
    /// `if` and `elif` with their conditions and bodies, and the body of `else`.
    If(Vec<(Vec<Command>, Vec<Command>)>, Vec<Command>),
    /// `menuentry` or `submenu` with its arguments and body.
    Menu { is_submenu: bool, words: Vec<Word>, body: Rc<Vec<Command>> },
    /// `function NAME { … }`.
    Function(String, Rc<Vec<Command>>),
    /// `for NAME in WORDS; do … done`.
    For(String, Vec<Word>, Vec<Command>),
    /// `while` or `until`, which are not followed.
    Loop(Vec<Command>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(Word),
    /// The end of a command: a new line or `;`.
    End,
}

impl Token {
    /// Returns the text of a word without variables.
    fn text(&self) -> Option<&str> {
        match self {
            Token::Word(parts) => match &parts[..] {
                [Part::Text(text)] => Some(text),
                _ => None,
            },
            Token::End => None,
        }
    }
}

/// Parses a script. The error is a sentence.
pub(super) fn parse(text: &str) -> Result<Vec<Command>, String> {
    if text.len() > MAX_SCRIPT {
        return Err(format!("it has more than {MAX_SCRIPT} bytes"));
    }
    let tokens = tokens(text)?;
    let mut parser = Parser { tokens: &tokens, next: 0 };
    let commands = parser.commands(&[], 0)?;
    match parser.tokens.get(parser.next) {
        None => Ok(commands),
        Some(token) => Err(format!("unexpected \"{}\"", token.text().unwrap_or_default())),
    }
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// Reads a variable after its `$`; returns its name. `None` if the `$` is plain.
fn variable(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<String> {
    match chars.peek().copied()? {
        '{' => {
            chars.next();
            let name: String = chars.by_ref().take_while(|c| *c != '}').collect();
            Some(name)
        }
        c if is_name(c) => {
            let mut name = String::new();
            while let Some(c) = chars.next_if(|c| is_name(*c)) {
                name.push(c);
                if name.len() == 1 && c.is_ascii_digit() {
                    break;
                }
            }
            Some(name)
        }
        c @ ('?' | '@' | '#' | '*') => {
            chars.next();
            Some(c.to_string())
        }
        _ => None,
    }
}

fn tokens(text: &str) -> Result<Vec<Token>, String> {
    let mut tokens = Vec::new();
    let mut chars = text.chars().peekable();
    let mut word: Option<Word> = None;
    let push = |word: &mut Option<Word>, text: &str| {
        let parts = word.get_or_insert_with(Vec::new);
        match parts.last_mut() {
            Some(Part::Text(last)) => last.push_str(text),
            _ => parts.push(Part::Text(text.to_owned())),
        }
    };
    while let Some(c) = chars.next() {
        match c {
            '#' if word.is_none() => while chars.next_if(|c| *c != '\n').is_some() {},
            '\n' | ';' => {
                tokens.extend(word.take().map(Token::Word));
                tokens.push(Token::End);
            }
            c if c.is_whitespace() => tokens.extend(word.take().map(Token::Word)),
            '\\' => match chars.next() {
                Some('\n') | None => {}
                Some(c) => push(&mut word, c.encode_utf8(&mut [0; 4])),
            },
            '\'' => {
                let mut quoted = String::new();
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => quoted.push(c),
                        None => return Err("a quote ' is not closed".into()),
                    }
                }
                push(&mut word, &quoted);
            }
            '"' => {
                push(&mut word, "");
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('\\') => match chars.next() {
                            Some('\n') => {}
                            Some(c @ ('$' | '"' | '\\')) => push(&mut word, c.encode_utf8(&mut [0; 4])),
                            Some(c) => push(&mut word, &format!("\\{c}")),
                            None => return Err("a quote \" is not closed".into()),
                        },
                        Some('$') => match variable(&mut chars) {
                            Some(name) => word.get_or_insert_with(Vec::new).push(Part::Variable(name, true)),
                            None => push(&mut word, "$"),
                        },
                        Some(c) => push(&mut word, c.encode_utf8(&mut [0; 4])),
                        None => return Err("a quote \" is not closed".into()),
                    }
                }
            }
            '$' => match variable(&mut chars) {
                Some(name) => word.get_or_insert_with(Vec::new).push(Part::Variable(name, false)),
                None => push(&mut word, "$"),
            },
            // GRUB's lexer ends a word at a brace, but not inside of one: `{` opens a block only alone.
            c => push(&mut word, c.encode_utf8(&mut [0; 4])),
        }
    }
    tokens.extend(word.take().map(Token::Word));
    tokens.push(Token::End);
    Ok(tokens)
}

struct Parser<'t> {
    tokens: &'t [Token],
    next: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next)
    }

    /// Reads commands until one of the words in `ends`, which is left.
    fn commands(&mut self, ends: &[&str], depth: usize) -> Result<Vec<Command>, String> {
        if depth > MAX_DEPTH {
            return Err(format!("blocks are nested more than {MAX_DEPTH} deep"));
        }
        let mut all = Vec::new();
        while let Some(token) = self.peek() {
            if *token == Token::End {
                self.next += 1;
                continue;
            }
            let text = token.text().unwrap_or_default().to_owned();
            if ends.contains(&&text[..]) {
                break;
            }
            match &text[..] {
                "if" => all.push(self.condition(depth)?),
                "menuentry" | "submenu" | "hiddenentry" => {
                    self.next += 1;
                    let words = self.words_to("{");
                    let body = Rc::new(self.block(depth)?);
                    all.push(Command::Menu { is_submenu: text == "submenu", words, body });
                }
                "function" => {
                    self.next += 1;
                    let name = self.words_to("{");
                    let name = name.first().map(|word| Token::Word(word.clone()));
                    let name = name.as_ref().and_then(Token::text).unwrap_or_default().to_owned();
                    all.push(Command::Function(name, Rc::new(self.block(depth)?)));
                }
                "for" => {
                    self.next += 1;
                    let words = self.words_to("do");
                    self.expect("do")?;
                    let body = self.commands(&["done"], depth + 1)?;
                    self.expect("done")?;
                    let name = words.first().map(|word| Token::Word(word.clone()));
                    let name = name.as_ref().and_then(Token::text).unwrap_or_default().to_owned();
                    all.push(Command::For(name, words.into_iter().skip(2).collect(), body));
                }
                "while" | "until" => {
                    self.next += 1;
                    self.commands(&["do"], depth + 1)?;
                    self.expect("do")?;
                    let body = self.commands(&["done"], depth + 1)?;
                    self.expect("done")?;
                    all.push(Command::Loop(body));
                }
                "fi" | "else" | "elif" | "then" | "do" | "done" | "}" if ends.is_empty() => {
                    return Err(format!("unexpected \"{text}\""));
                }
                "{" => {
                    all.extend(self.block(depth)?);
                }
                _ => {
                    let mut words = Vec::new();
                    while let Some(Token::Word(word)) = self.peek() {
                        // A block may end on the line of its last command.
                        if Token::Word(word.clone()).text() == Some("}") && ends.contains(&"}") {
                            break;
                        }
                        words.push(word.clone());
                        self.next += 1;
                    }
                    all.push(Command::Simple(words));
                }
            }
        }
        Ok(all)
    }

    /// Reads words up to `end`, which is left, across line ends.
    fn words_to(&mut self, end: &str) -> Vec<Word> {
        let mut words = Vec::new();
        while let Some(token) = self.peek() {
            if token.text() == Some(end) {
                break;
            }
            if let Token::Word(word) = token {
                words.push(word.clone());
            }
            self.next += 1;
        }
        words
    }

    fn expect(&mut self, word: &str) -> Result<(), String> {
        while self.peek() == Some(&Token::End) {
            self.next += 1;
        }
        if self.peek().and_then(Token::text) != Some(word) {
            return Err(format!("expected \"{word}\""));
        }
        self.next += 1;
        Ok(())
    }

    fn block(&mut self, depth: usize) -> Result<Vec<Command>, String> {
        self.expect("{")?;
        let body = self.commands(&["}"], depth + 1)?;
        self.expect("}")?;
        Ok(body)
    }

    fn condition(&mut self, depth: usize) -> Result<Command, String> {
        let mut branches = Vec::new();
        let mut otherwise = Vec::new();
        self.next += 1;
        loop {
            let condition = self.commands(&["then"], depth + 1)?;
            self.expect("then")?;
            let body = self.commands(&["elif", "else", "fi"], depth + 1)?;
            branches.push((condition, body));
            match self.peek().and_then(Token::text) {
                Some("elif") => self.next += 1,
                Some("else") => {
                    self.next += 1;
                    otherwise = self.commands(&["fi"], depth + 1)?;
                    self.expect("fi")?;
                    break;
                }
                _ => {
                    self.expect("fi")?;
                    break;
                }
            }
        }
        Ok(Command::If(branches, otherwise))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Word {
        vec![Part::Text(text.into())]
    }

    #[test]
    fn words_are_read_as_grub_does() {
        let commands = parse("linux /vm\\ x 'a $b' \"c $d\\\"\"e ${f}x$1y # no\nset a=\"\"; boot\n").unwrap();
        let [Command::Simple(linux), Command::Simple(set), Command::Simple(boot)] = &commands[..] else {
            panic!("{commands:?}")
        };
        assert_eq!(linux[1..3], [text("/vm x"), text("a $b")]);
        let quoted = |name: &str| Part::Variable(name.into(), true);
        let plain = |name: &str| Part::Variable(name.into(), false);
        let part = |text: &str| Part::Text(text.into());
        assert_eq!(linux[3], [part("c "), quoted("d"), part("\"e")]);
        assert_eq!(linux[4], [plain("f"), part("x"), plain("1"), part("y")]);
        assert_eq!((set.len(), &set[1], boot), (2, &text("a="), &vec![text("boot")]));
    }

    #[test]
    fn blocks_may_be_on_one_line_or_many() {
        let script = "if [ a = b ]; then x; elif y\nthen z\nelse w; fi\nmenuentry 'A' --id a { linux /k }\nsubmenu B {\n menuentry C {\n boot\n}\n}\nfunction f { x; }\nfor i in 1 2; do y; done";
        let commands = parse(script).unwrap();
        assert_eq!(commands.len(), 5, "{commands:?}");
        let Command::If(branches, otherwise) = &commands[0] else { panic!() };
        assert_eq!((branches.len(), otherwise.len()), (2, 1));
        let Command::Menu { is_submenu: false, words, body } = &commands[1] else { panic!() };
        assert_eq!((words.len(), body.len()), (3, 1));
        let Command::Menu { is_submenu: true, body, .. } = &commands[2] else { panic!() };
        assert!(matches!(&body[..], [Command::Menu { .. }]));
    }

    #[test]
    fn what_is_no_script_is_refused() {
        for bad in ["if x; then", "menuentry a {", "fi", "set a='", "}", "if x; fi"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let deep = "submenu a {\n".repeat(40);
        assert!(parse(&deep).unwrap_err().contains("nested"));
        let deep = "if ".repeat(100_000);
        assert!(parse(&deep).is_err());
    }
}
