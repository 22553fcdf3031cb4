package admission

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"strings"

	"github.com/BurntSushi/toml"
	"sigs.k8s.io/yaml"

	"github.com/berth-dev/berth/api/v1alpha1"
)

// maxUserData is how much user data EC2 takes, before base64.
const maxUserData = 16 << 10

// errUserDataKind says what an AL2023 image understands. A document of another
// kind would be ignored by the instance without a word.
var errUserDataKind = errors.New("AL2023 understands a multipart MIME document, a script (#!), cloud-config (#cloud-config) or a NodeConfig (apiVersion: node.eks.aws/v1alpha1); begin with one of them")

// checkUserData says what is wrong with the form of user data; nil when nothing
// is. What Berth adds is not known here.
func checkUserData(family v1alpha1.AMIFamily, doc string) error {
	if len(doc) > maxUserData {
		return fmt.Errorf("%d bytes, EC2 takes %d: shorten it", len(doc), maxUserData)
	}
	if strings.TrimSpace(doc) == "" || family == v1alpha1.AMIFamilyCustom {
		return nil // Custom is handed on as it is.
	}
	if i := strings.IndexByte(doc, 0); i >= 0 {
		return fmt.Errorf("a NUL byte at %d: remove it", i)
	}
	if family == v1alpha1.AMIFamilyBottlerocket {
		return checkTOML(doc)
	}
	return checkCloudInit(doc)
}

func checkTOML(doc string) error {
	var top map[string]any
	if _, err := toml.Decode(doc, &top); err != nil {
		var p toml.ParseError
		if errors.As(err, &p) {
			return fmt.Errorf("not TOML, line %d: %s", p.Position.Line, p.Message)
		}
		return fmt.Errorf("not TOML: %w", err)
	}
	for _, path := range [][]string{{"settings"}, {"settings", "kubernetes"}} {
		at := any(top)
		for _, name := range path {
			at = at.(map[string]any)[name]
			if at == nil {
				return nil
			}
			if _, ok := at.(map[string]any); !ok {
				return fmt.Errorf("%s must be a table", strings.Join(path, "."))
			}
		}
	}
	return nil
}

func checkCloudInit(doc string) error {
	switch {
	case strings.HasPrefix(doc, "#!"):
		return nil
	case strings.HasPrefix(doc, "#cloud-config"):
		return checkYAML(doc)
	}
	m, err := mail.ReadMessage(strings.NewReader(doc))
	if err != nil || m.Header.Get("Content-Type") == "" {
		return checkNodeConfig(doc)
	}
	mediaType, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		return fmt.Errorf("Content-Type %q: %w", m.Header.Get("Content-Type"), err)
	}
	if !strings.HasPrefix(mediaType, "multipart/") {
		return errUserDataKind
	}
	if params["boundary"] == "" {
		return errors.New("the MIME document's Content-Type names no boundary: add one, such as boundary=BOUNDARY")
	}
	r := multipart.NewReader(m.Body, params["boundary"])
	for n := 1; ; n++ {
		p, err := r.NextRawPart()
		switch {
		case errors.Is(err, io.EOF) && n == 1:
			return fmt.Errorf("the MIME document has no parts: each begins with a line --%s", params["boundary"])
		case err == io.EOF:
			return nil
		case errors.Is(err, io.EOF):
			return fmt.Errorf("the MIME document is cut short: it ends with a line --%s--", params["boundary"])
		}
		if err != nil {
			return fmt.Errorf("part %d of the MIME document: %w", n, err)
		}
		if err := checkPart(p); err != nil {
			return fmt.Errorf("part %d of the MIME document: %w", n, err)
		}
	}
}

func checkPart(p *multipart.Part) error {
	body, err := io.ReadAll(p)
	if err != nil {
		return err
	}
	header := p.Header.Get("Content-Type")
	if header == "" {
		return errors.New("it has no Content-Type")
	}
	mediaType, _, err := mime.ParseMediaType(header)
	if err != nil {
		return fmt.Errorf("Content-Type %q: %w", header, err)
	}
	if e := strings.ToLower(p.Header.Get("Content-Transfer-Encoding")); e != "" && e != "7bit" && e != "8bit" && e != "binary" {
		return nil // Encoded; cloud-init decodes it.
	}
	switch mediaType {
	case "application/node.eks.aws":
		return checkNodeConfig(string(body))
	case "text/x-shellscript":
		if !strings.HasPrefix(string(body), "#!") {
			return errors.New("a script must begin with #! and its interpreter")
		}
	case "text/cloud-config":
		return checkYAML(string(body))
	}
	return nil
}

func checkYAML(doc string) error {
	var v any
	if err := yaml.Unmarshal([]byte(doc), &v); err != nil {
		return fmt.Errorf("not YAML: %w", err)
	}
	return nil
}

// checkNodeConfig wants a document that nodeadm takes for its own.
func checkNodeConfig(doc string) error {
	var kind struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
	}
	if err := yaml.Unmarshal([]byte(doc), &kind); err != nil || kind.Kind != "NodeConfig" || !strings.HasPrefix(kind.APIVersion, "node.eks.aws/") {
		return errUserDataKind
	}
	return nil
}
