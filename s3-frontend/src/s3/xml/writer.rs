//! Writing XML.
//!
//! What must hold: every text that is a legal key comes out as something a parser reads back. Characters that XML 1.0 has no place
//! for are written as references, as S3 does; clients whose parsers refuse those ask for `encoding-type=url`.

use crate::date;
use crate::http::response::push_number;

/// The namespace of S3's documents.
const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

pub(crate) struct XmlWriter {
    out: Vec<u8>,
}

impl XmlWriter {
    pub(crate) fn document() -> XmlWriter {
        XmlWriter { out: b"<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_vec() }
    }

    /// A document whose root has S3's namespace.
    pub(crate) fn rooted(root: &str) -> XmlWriter {
        let mut xml = XmlWriter::document();
        xml.open_with(root, &[("xmlns", NAMESPACE)]);
        xml
    }

    pub(crate) fn open(&mut self, name: &str) {
        self.open_with(name, &[]);
    }

    pub(crate) fn open_with(&mut self, name: &str, attributes: &[(&str, &str)]) {
        self.out.push(b'<');
        self.out.extend_from_slice(name.as_bytes());
        for (attribute, value) in attributes {
            self.out.push(b' ');
            self.out.extend_from_slice(attribute.as_bytes());
            self.out.extend_from_slice(b"=\"");
            escape(value, &mut self.out);
            self.out.push(b'"');
        }
        self.out.push(b'>');
    }

    pub(crate) fn close(&mut self, name: &str) {
        self.out.extend_from_slice(b"</");
        self.out.extend_from_slice(name.as_bytes());
        self.out.push(b'>');
    }

    /// `<name>text</name>`
    pub(crate) fn text(&mut self, name: &str, text: &str) {
        self.open(name);
        escape(text, &mut self.out);
        self.close(name);
    }

    /// The same for people: what XML cannot hold is shown as a replacement character, so that every parser reads the document.
    pub(crate) fn readable(&mut self, name: &str, text: &str) {
        let is_readable = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{fffd}' | '\u{10000}'..);
        if text.chars().all(is_readable) {
            self.text(name, text);
        } else {
            let readable = text.chars().map(|c| if is_readable(c) { c } else { '\u{fffd}' });
            self.text(name, &readable.collect::<String>());
        }
    }

    /// Text of the element that is open.
    pub(crate) fn own_text(&mut self, text: &str) {
        escape(text, &mut self.out);
    }

    pub(crate) fn number(&mut self, name: &str, value: u64) {
        self.open(name);
        push_number(&mut self.out, value);
        self.close(name);
    }

    pub(crate) fn boolean(&mut self, name: &str, value: bool) {
        self.text(name, if value { "true" } else { "false" });
    }

    /// A moment, as ISO 8601 with milliseconds.
    pub(crate) fn date(&mut self, name: &str, unix_ms: u64) {
        let date = date::iso8601_millis(i64::try_from(unix_ms).unwrap_or(i64::MAX));
        self.text(name, date.as_str());
    }

    /// An ETag, with its quotes.
    pub(crate) fn etag(&mut self, etag: &str) {
        self.open("ETag");
        self.out.extend_from_slice(b"&quot;");
        escape(etag, &mut self.out);
        self.out.extend_from_slice(b"&quot;");
        self.close("ETag");
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.out
    }
}

fn escape(text: &str, out: &mut Vec<u8>) {
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| needs_escape(c)) {
        let (plain, after) = rest.split_at(at);
        out.extend_from_slice(plain.as_bytes());
        let mut characters = after.chars();
        match characters.next() {
            Some('&') => out.extend_from_slice(b"&amp;"),
            Some('<') => out.extend_from_slice(b"&lt;"),
            Some('>') => out.extend_from_slice(b"&gt;"),
            Some('"') => out.extend_from_slice(b"&quot;"),
            Some(other) => out.extend_from_slice(format!("&#x{:X};", other as u32).as_bytes()),
            None => {}
        }
        rest = characters.as_str();
    }
    out.extend_from_slice(rest.as_bytes());
}

fn needs_escape(character: char) -> bool {
    matches!(character, '&' | '<' | '>' | '"' | '\0'..='\x1f' | '\x7f' | '\u{fffe}' | '\u{ffff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::xml::reader;

    #[test]
    fn documents_are_written_in_order() {
        let mut xml = XmlWriter::rooted("A");
        xml.text("B", "a & <b> \"c\"\r\n\u{1}\u{20ac}");
        xml.number("C", 12);
        xml.boolean("D", false);
        xml.date("E", 1_255_369_830_000);
        xml.etag("f-1");
        xml.close("A");
        assert_eq!(
            String::from_utf8(xml.into_bytes()).unwrap(),
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<A xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">\
             <B>a &amp; &lt;b&gt; &quot;c&quot;&#xD;&#xA;&#x1;\u{20ac}</B><C>12</C><D>false</D>\
             <E>2009-10-12T17:50:30.000Z</E><ETag>&quot;f-1&quot;</ETag></A>"
        );
    }

    #[test]
    fn what_is_for_people_is_always_readable() {
        let mut xml = XmlWriter::document();
        xml.readable("A", "a\u{1}\u{ffff}\u{10000}\u{20ac}");
        assert!(
            String::from_utf8(xml.into_bytes())
                .unwrap()
                .ends_with("<A>a\u{fffd}\u{fffd}\u{10000}\u{20ac}</A>")
        );
    }

    proptest::proptest! {
        #[test]
        fn every_text_is_read_back(text in "\\PC{0,40}|[\\t\\r\\n -~]{0,40}") {
            let mut xml = XmlWriter::rooted("A");
            xml.text("B", &text);
            xml.close("A");
            let mut found = None;
            reader::read(&xml.into_bytes(), |path, value| {
                if path == "A/B" {
                    found = Some(value.to_owned());
                }
                Ok(())
            })
            .unwrap();
            proptest::prop_assert_eq!(found, Some(text));
        }
    }
}
