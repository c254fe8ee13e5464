//! The regular expressions of openapi.json: literals, `\.`, classes, groups, alternatives, `? * + {m} {m,n}`, between `^` and `$`.

/// Whether the whole `text` is what `pattern` says; a pattern of another form panics.
pub fn matches(pattern: &str, text: &str) -> bool {
    let inner = pattern
        .strip_prefix('^')
        .and_then(|rest| rest.strip_suffix('$'));
    let inner: Vec<_> = inner
        .unwrap_or_else(|| panic!("{pattern} is not between ^ and $"))
        .chars()
        .collect();
    let mut parser = Parser {
        pattern: &inner,
        at: 0,
    };
    let node = parser.alternatives();
    assert_eq!(parser.at, inner.len(), "{pattern} is not understood");
    let text: Vec<_> = text.chars().collect();
    node.ends(&text, 0).contains(&text.len())
}

enum Node {
    One(Vec<(char, char)>),
    Sequence(Vec<Node>),
    Any(Vec<Node>),
    Repeated(Box<Node>, usize, usize),
}

impl Node {
    /// Where a match that begins at `from` may end.
    fn ends(&self, text: &[char], from: usize) -> Vec<usize> {
        let mut ends = match self {
            Self::One(ranges) => match text.get(from) {
                Some(c) if ranges.iter().any(|(low, high)| (low..=high).contains(&c)) => {
                    vec![from + 1]
                }
                _ => Vec::new(),
            },
            Self::Sequence(parts) => parts.iter().fold(vec![from], |starts, part| {
                unique(starts.iter().flat_map(|at| part.ends(text, *at)))
            }),
            Self::Any(choices) => choices.iter().flat_map(|n| n.ends(text, from)).collect(),
            Self::Repeated(part, least, most) => {
                let mut ends = Vec::new();
                let mut starts = vec![from];
                for count in 0..=*most {
                    if count >= *least {
                        ends.extend(&starts);
                    }
                    starts = unique(starts.iter().flat_map(|at| part.ends(text, *at)));
                    if starts.is_empty() {
                        break;
                    }
                }
                ends
            }
        };
        ends.sort_unstable();
        ends.dedup();
        ends
    }
}

fn unique(ends: impl Iterator<Item = usize>) -> Vec<usize> {
    let ends: std::collections::BTreeSet<_> = ends.collect();
    ends.into_iter().collect()
}

struct Parser<'a> {
    pattern: &'a [char],
    at: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<char> {
        self.pattern.get(self.at).copied()
    }

    fn next(&mut self) -> char {
        let next = self.peek().expect("a pattern does not end here");
        self.at += 1;
        next
    }

    fn alternatives(&mut self) -> Node {
        let mut choices = vec![self.sequence()];
        while self.peek() == Some('|') {
            self.at += 1;
            choices.push(self.sequence());
        }
        Node::Any(choices)
    }

    fn sequence(&mut self) -> Node {
        let mut parts = Vec::new();
        while !matches!(self.peek(), None | Some('|' | ')')) {
            let part = self.one();
            parts.push(self.repeated(part));
        }
        Node::Sequence(parts)
    }

    fn one(&mut self) -> Node {
        match self.next() {
            '(' => {
                let inner = self.alternatives();
                assert_eq!(self.next(), ')', "a group ends");
                inner
            }
            '[' => self.class(),
            '\\' => {
                let c = self.next();
                assert!(!c.is_alphanumeric(), "\\{c} is not understood");
                Node::One(vec![(c, c)])
            }
            c => {
                assert!(!"^$.*+?{}]".contains(c), "{c} is not understood here");
                Node::One(vec![(c, c)])
            }
        }
    }

    fn class(&mut self) -> Node {
        let mut ranges = Vec::new();
        loop {
            let low = match self.next() {
                ']' => return Node::One(ranges),
                '^' => panic!("[^…] is not understood"),
                '\\' => panic!("[\\…] is not understood"),
                low => low,
            };
            // A hyphen at the end is itself.
            if self.peek() == Some('-') && self.pattern.get(self.at + 1) != Some(&']') {
                self.at += 1;
                ranges.push((low, self.next()));
            } else {
                ranges.push((low, low));
            }
        }
    }

    fn repeated(&mut self, part: Node) -> Node {
        const ENDLESS: usize = 1 << 16;
        let (least, most) = match self.peek() {
            Some('?') => (0, 1),
            Some('*') => (0, ENDLESS),
            Some('+') => (1, ENDLESS),
            Some('{') => {
                self.at += 1;
                let mut inner = String::new();
                while self.peek() != Some('}') {
                    inner.push(self.next());
                }
                let number = |text: &str| text.parse().expect("a count is a number");
                match inner.split_once(',') {
                    Some((least, most)) => (number(least), number(most)),
                    None => (number(&inner), number(&inner)),
                }
            }
            _ => return part,
        };
        self.at += 1;
        Node::Repeated(Box::new(part), least, most)
    }
}
