package inference

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/gpuledger/gpuledger/internal/serving/exposition"
)

const formatTriton = "triton"

// Bounds of what a Triton server is asked, and answers.
const (
	maxTritonModels = 64
	maxConfigBytes  = 256 << 10
	maxTritonName   = 253 // bytes
	tritonAgain     = 5 * time.Minute
)

// triton is what a Triton server has told of its models. An ensemble counts
// its own requests, and those of the models that it calls count there too: an
// inference is a request of a client, so the ensemble is counted, and the
// models that it calls are left out. A model that is called by clients and by
// an ensemble cannot be told apart, and is left out too; the annotation
// gpuledger.io/models counts it where that is not what is wanted.
//
// A server's answers are kept for as long as it is the same container. One
// reading at a time uses it.
type triton struct {
	steps map[string][]string // by model: what it calls, none for a model that is no ensemble
	again time.Time           // not before this is a server asked that has not told
}

// composing lists the models that are left out, and whether that is unsure
// because the server did not tell.
func (t *triton) composing(ctx context.Context, s *Sampler, j *job, page *exposition.Page) (out []string, unsure bool) {
	models := modelsOf(page)
	if len(models) < 2 {
		return nil, false
	}
	if t.steps == nil {
		t.steps = map[string][]string{}
	}
	maps.DeleteFunc(t.steps, func(m string, _ []string) bool { return !slices.Contains(models, m) })
	called := map[string]bool{}
	for _, m := range models {
		steps, known := t.steps[m]
		if !known {
			var err error
			if steps, err = t.ask(ctx, s, j, m); err != nil {
				unsure = true
				continue
			}
			t.steps[m] = steps
		}
		for _, step := range steps {
			called[step] = true
		}
	}
	return slices.Sorted(maps.Keys(called)), unsure
}

// modelsOf lists the models of a page, some at most.
func modelsOf(page *exposition.Page) []string {
	names := map[string]bool{}
	for i := range page.Samples {
		if m, ok := page.Samples[i].Labels.Get("model"); ok && len(m) <= maxTritonName && len(names) < maxTritonModels {
			names[m] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// ask asks for a model's configuration, and returns what it calls.
func (t *triton) ask(ctx context.Context, s *Sampler, j *job, model string) ([]string, error) {
	if j.tritonPort == 0 || time.Now().Before(t.again) {
		return nil, errors.New("not asked")
	}
	steps, err := s.tritonSteps(ctx, j, model)
	if err != nil {
		t.again = time.Now().Add(tritonAgain)
	}
	return steps, err
}

func (s *Sampler) tritonSteps(ctx context.Context, j *job, model string) ([]string, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, j.url(j.tritonPort, "/v2/models/"+url.PathEscape(model)+"/config"), http.NoBody)
	if err != nil {
		return nil, err
	}
	answer, err := s.client.Do(q)
	if err != nil {
		return nil, err
	}
	defer func() { _ = answer.Body.Close() }()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("status %d", answer.StatusCode)
	}
	var config struct {
		Platform   string `json:"platform"`
		Scheduling struct {
			Step []struct {
				Model string `json:"model_name"`
			} `json:"step"`
		} `json:"ensemble_scheduling"`
	}
	if err := json.NewDecoder(io.LimitReader(answer.Body, maxConfigBytes)).Decode(&config); err != nil {
		return nil, fmt.Errorf("a model's configuration: %w", err)
	}
	steps := []string{}
	if config.Platform != "ensemble" {
		return steps, nil
	}
	for _, step := range config.Scheduling.Step {
		if len(steps) < maxTritonModels && len(step.Model) <= maxTritonName {
			steps = append(steps, step.Model)
		}
	}
	return steps, nil
}

func portText(n uint16) string { return strconv.Itoa(int(n)) }
